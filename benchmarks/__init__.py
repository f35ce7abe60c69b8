"""What the product itself never imports: measurements, audits, comparisons of checkouts."""
