"""The OpenAI-compatible server: files, fine-tuning jobs, models and answers over HTTP."""
