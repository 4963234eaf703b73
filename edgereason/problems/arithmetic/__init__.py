"""Arithmetic word problems of one and two steps, made from a seed."""
