"""The study's page: tables, figures, text."""
