"""Pure decisions: values in (time and randomness too), values out.

Nothing in here may import anyio, read a clock, draw a random number, log or know a driver.
"""
