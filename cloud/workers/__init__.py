"""The machine worker and the refiner, and what they work with: detectors, policy, post-filter."""
