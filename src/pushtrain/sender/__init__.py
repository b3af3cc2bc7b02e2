"""The room that turns a push into signed commands, and keeps them until an executor has them."""
