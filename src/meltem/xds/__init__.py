"""The discovery service: what each connected proxy has, what it still needs, and the wire in between.

In: attachments (`meltem.generate.bundle`) and the requests of proxies. Out: responses over gRPC, and the record of who
acknowledged what.
"""
