"""What a published classifier carries with it: tensors in, labels out. It imports neither half of tidegate."""
