"""Prometheus' files: the scrape of Compose, and the rules, which Kubernetes has too."""
