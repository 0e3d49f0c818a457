"""Deleting many images at once: purges, plans, suggestions and retention rules.

Each is a list of candidates that passes the guardrails and is deleted in batches by a job.
"""
