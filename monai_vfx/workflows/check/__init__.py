"""The pre-flight over one or many studies: what is accepted, what not and why, as a table."""
