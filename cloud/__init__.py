"""The receiving side: gateway, queue, workers, catalogue and the review station."""
