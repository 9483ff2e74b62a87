"""Inputs from public reports, each fed through the check or the component that meets it in a run."""
