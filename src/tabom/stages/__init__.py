"""Recipes, stages and studies: the whole path of the data from one file."""
