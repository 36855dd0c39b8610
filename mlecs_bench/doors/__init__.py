"""What strangers provide and how it is found."""
