"""Emulated TDX: a PKI, hosts and TDs whose quotes verify under an emulated root, and never under Intel's."""
