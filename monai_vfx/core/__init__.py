"""What every room shares: files, digests, geometry, the ledger of finished work."""
