"""stub"""
class Subresources:
    def __init__(self, core, tokens, authorizer, upstream): ...
    def find(self, storage, subresource): return None
