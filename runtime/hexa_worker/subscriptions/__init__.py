"""What a user's module says, and how it is found and understood. Knows no broker and no actor."""
