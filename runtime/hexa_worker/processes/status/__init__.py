"""How the whole worker stands: totals, the overview, and the pages that show them."""
