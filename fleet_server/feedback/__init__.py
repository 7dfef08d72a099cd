"""What people say, and what of it may be believed."""
