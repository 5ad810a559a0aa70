"""Models behind servers that speak OpenAI's protocol: vLLM, SGLang, llama.cpp's server, hosted ones.

load → connect → probe     what the server can do
OpenAIEngine → wire        requests and answers
             → pieces      identities of tokens where only text is told
             → engines.transport   connections, retries, limits, errors
"""

from exptilt.engines.openai.engine import OpenAIEngine
from exptilt.engines.openai.server import Server, connect

__all__ = ["OpenAIEngine", "Server", "connect"]
