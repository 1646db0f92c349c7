// SPDX-License-Identifier: Apache-2.0
// Nobody catches what it throws, so std::terminate() calls abort().
#include <stdexcept>

int main()
{
	throw std::runtime_error("nobody catches this");
}
