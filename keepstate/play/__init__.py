"""Playing many episodes: what is owed, how many at once, what comes of it.

Run `keepstate traces collect --help`. Grades nothing and trains nothing.
"""
