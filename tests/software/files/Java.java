// SPDX-License-Identifier: Apache-2.0

import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/** Ends in the ways in which servers in Java do. */
public class Java {
    public static void main(String[] words) throws Exception {
        switch (words[0]) {
            case "heap" -> fill(size -> new byte[size]);
            case "direct" -> fill(Java::touched);
            case "threads" -> startThreads();
            case "crash" -> crash();
            case "leave" -> System.exit(Integer.parseInt(words[1]));
            case "leave-at" -> leaveAt(Path.of(words[1]), Integer.parseInt(words[2]));
            default -> Thread.sleep(Long.MAX_VALUE);
        }
    }

    private static void leaveAt(Path file, int code) throws InterruptedException {
        while (!Files.exists(file)) {
            Thread.sleep(10);
        }
        System.exit(code);
    }

    private static void fill(java.util.function.IntFunction<Object> make) {
        List<Object> kept = new ArrayList<>();
        while (true) {
            kept.add(make.apply(1 << 20));
        }
    }

    private static Object touched(int size) {
        ByteBuffer buffer = ByteBuffer.allocateDirect(size);
        for (int at = 0; at < size; at += 4096) {
            buffer.put(at, (byte) 1);
        }
        return buffer;
    }

    private static void startThreads() {
        while (true) {
            Thread thread = new Thread(() -> {
                try {
                    Thread.sleep(Long.MAX_VALUE);
                } catch (InterruptedException ended) {
                    Thread.currentThread().interrupt();
                }
            });
            thread.setDaemon(true);
            thread.start();
        }
    }

    private static void crash() throws Exception {
        var field = sun.misc.Unsafe.class.getDeclaredField("theUnsafe");
        field.setAccessible(true);
        ((sun.misc.Unsafe) field.get(null)).putAddress(0, 0);
    }
}
