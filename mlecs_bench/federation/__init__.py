"""Server, devices, and the rounds between them."""
