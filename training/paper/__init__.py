"""The experiments of "Refining Coded Image in Human Vision Layer Using CNN-Based Post-Processing" with our codec."""
