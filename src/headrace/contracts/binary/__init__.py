"""Avro's binary encoding, whole columns at a time.

Owns everything between the bytes of a record and its Arrow columns; `fastavro_codec` puts it behind the codec port.
"""
