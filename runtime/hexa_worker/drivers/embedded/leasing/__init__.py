"""Who has which deliveries in hand, and what becomes of them."""
