"""A request carried out as a user asked, under a live view: what commands and Python share."""
