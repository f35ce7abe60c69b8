"""JSON Schemas of the tables and results that people exchange."""
