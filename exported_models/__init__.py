"""Weights that ship with the code, one folder per model; `shared.models` finds and verifies them."""
