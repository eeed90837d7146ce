"""Identity's promises."""
