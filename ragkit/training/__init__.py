"""Losses, collators and trainers."""
