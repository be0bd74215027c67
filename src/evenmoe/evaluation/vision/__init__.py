"""Quality of vision-language models under a policy: answers to questions about images. Pillow only in here."""
