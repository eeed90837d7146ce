"""A generation model that costs nothing, so that what is measured is what stands before it."""
