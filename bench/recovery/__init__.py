"""How long state takes to come back, and what a worker does under steady load: on a real broker, in real processes."""
