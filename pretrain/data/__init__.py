"""The data pipeline: documents flow one way, from sources through stages to token shards."""
