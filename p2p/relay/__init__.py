"""Relays: peers that cannot be dialed hold reservations, and others reach them by circuits."""
