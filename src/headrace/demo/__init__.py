"""The demo: a year of real flights through contracts, CDC, a pipeline and a connector, checked against plain SQL."""
