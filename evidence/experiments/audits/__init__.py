"""Audits simulated where the truth is known: does the interval hold it, and how wide is it?"""
