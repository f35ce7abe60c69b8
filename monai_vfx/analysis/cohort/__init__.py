"""A table of patients → who is eligible, who is matched, which fold each falls into."""
