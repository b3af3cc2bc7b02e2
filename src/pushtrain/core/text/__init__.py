"""How text is read that people or strangers wrote: one meaning, or a mistake that is named."""
