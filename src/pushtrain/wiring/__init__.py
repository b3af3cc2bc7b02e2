"""From settings and adapter names to rooms: the only package that knows them all.

`settings` reads what is in force, `parts` makes what several verbs need, `rooms` furnishes the executor and
the sender. The first two are quick to import; `rooms` loads the servers, so only verbs that serve import it.
"""
