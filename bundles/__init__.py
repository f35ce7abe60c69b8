"""MONAI Bundles shipped with the package (see each bundle's docs/README.md)."""
