"""Teachers, and what a student takes from them."""
