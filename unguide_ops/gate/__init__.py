"""The gate (paper section 3.2): does a prompt touch the erased concept?"""
