"""What changed on the server becomes one transaction of the catalog."""
