"""The policy's promises."""
