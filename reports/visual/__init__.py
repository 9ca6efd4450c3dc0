"""Pictures of what networks do, drawn from arrays alone. Each function returns a matplotlib figure; nothing here imports torch."""
