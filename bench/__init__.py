"""How fast Teehouse is, and how much memory it takes: `python -m bench` writes docs/performance.md."""
