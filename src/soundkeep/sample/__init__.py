"""Made-up companies, people and recordings, for demos and for measuring."""
