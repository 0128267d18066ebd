"""What happens to payloads between a program and the coordinator: compression, encryption, and blobs for large ones."""

from agent_node.payloads.blobs import BlobStore, FileBlobStore
from agent_node.payloads.codecs import AesGcm, Codec, Zlib
from agent_node.payloads.content import About, Content
from agent_node.payloads.pipeline import Payloads
from agent_node.payloads.s3 import S3BlobStore

__all__ = ["About", "AesGcm", "BlobStore", "Codec", "Content", "FileBlobStore", "Payloads", "S3BlobStore", "Zlib"]
