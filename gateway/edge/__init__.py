"""HTTP: parse, refuse, answer. Nothing here knows policy, tokens or Triton."""
