# SPDX-License-Identifier: Apache-2.0
app { |env| [200, { 'Content-Type' => 'text/plain' }, ["fine\n"]] }
bind 'tcp://0.0.0.0:8000'
workers 2
