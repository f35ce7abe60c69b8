"""The check of one or many cases: what is accepted, what not and why, as a table."""
